"""A shop as many are: a factory, Flask-SQLAlchemy, Flask-Migrate and tasks on RQ."""

import os

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()
migrate = Migrate()


def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("SHOP_DATABASE", "sqlite:///shop.db")
    db.init_app(app)
    migrate.init_app(app, db)

    from app.views import shop

    app.register_blueprint(shop)
    return app
