"""Says hello with bottle on waitress, installed from the lock file of poetry."""

import os

import bottle
import waitress

app = bottle.Bottle()


@app.get("/")
def hello() -> str:
    bottle.response.content_type = "text/plain"
    return os.environ.get("MESSAGE", "Hello from Rayfold with poetry") + "\n"


if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ["PORT"]))
