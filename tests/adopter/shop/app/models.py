from app import db


class Order(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    email = db.Column(db.String(200), nullable=False)


class Effect(db.Model):
    """What was done for an order: a second row of a kind is a customer who paid twice."""

    id = db.Column(db.Integer, primary_key=True)
    order_id = db.Column(db.Integer, db.ForeignKey("order.id"), nullable=False)
    what = db.Column(db.String(20), nullable=False)
