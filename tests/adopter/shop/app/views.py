from datetime import timedelta

from flask import Blueprint, request

from app import db
from app.models import Effect, Order
from flags import is_on
from queues import queue

shop = Blueprint("shop", __name__)


@shop.post("/orders")
def order():
    from app import tasks

    placed = Order(email=request.json["email"])
    db.session.add(placed)
    db.session.commit()
    paying = queue.enqueue(tasks.pay, placed.id)
    queue.enqueue("app.tasks.ship", order_id=placed.id, express=is_on("express"))
    tasks.thank.delay(placed.id)
    queue.enqueue_in(timedelta(seconds=1), tasks.remind, placed.id)
    return {"order": placed.id, "task": paying.id}, 201


@shop.get("/effects")
def effects():
    rows = db.session.query(Effect.what, Effect.order_id).order_by(Effect.id)
    return [list(row) for row in rows]


@shop.get("/healthz")
def healthz():
    return "the shop is open"
