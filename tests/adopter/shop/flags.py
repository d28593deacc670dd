"""The shop's own flags."""

ON = {"express"}


def is_on(name):
    return name in ON
