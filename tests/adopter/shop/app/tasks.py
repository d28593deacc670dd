"""What RQ's worker does. A task makes an app of its own, as RQ gives it none."""

from rq import get_current_job
from rq.decorators import job

from app import create_app, db
from app.models import Effect, Order
from queues import redis


def note(order_id, what):
    with create_app().app_context():
        order = db.session.get(Order, order_id)
        db.session.add(Effect(order_id=order.id, what=what))
        db.session.commit()


def pay(order_id):
    task = get_current_job()
    task.meta["progress"] = 50
    task.save_meta()
    note(order_id, "paid")
    return {"order": order_id}


def ship(order_id, express=False):
    note(order_id, "express" if express else "shipped")


@job("shop", connection=redis)
def thank(order_id):
    note(order_id, "thanked")


def remind(order_id):
    note(order_id, "reminded")
