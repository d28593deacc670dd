import os

from flask import Flask
from redis import Redis
from switchyard import Switchyard, adopt
from switchyard.queues import Queue

app = Flask(__name__)
Switchyard(app, jobs=[adopt("app.tasks.greet")])
queue = Queue(connection=Redis.from_url(os.environ["REDIS_URL"]))


@app.post("/greet/<name>")
def greet(name):
    return {"task": queue.enqueue("app.tasks.greet", name).id}


@app.get("/tasks/<task>")
def task(task):
    return {"result": queue.fetch_job(task).return_value()}
