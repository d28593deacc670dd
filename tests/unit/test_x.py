from tests.unit.test_clocks import *
import tempfile
def test_x(world):
    having(world, ALL)
    rounds(world, 2 * HOUR, 60.0)
    wrong = Ticker(world.made, world.time.monotonic)
    for _ in range(40):
        rounds(world, 240.0, 120.0)
        world.time.offset = timedelta(days=20)
        wrong.round()
        world.time.offset = timedelta(0)
    wanted = ticks(ALL, START, world.time.now)
    got=[key for key in keys(world, "each") if key <= max(wanted)]; print(set(got)^set(wanted), len(got), len(wanted), world.time.now)
    assert [key for key in keys(world, "each") if key <= max(wanted)] == wanted
