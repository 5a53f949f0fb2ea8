"""The process that works in the background: one line every few seconds until it is told to stop."""

import os
import signal
import threading

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())

interval = float(os.environ.get("WORKER_INTERVAL_SECONDS", "5"))
print("worker started", flush=True)
count = 0
while not stopping.wait(interval):
    count += 1
    print(f"worker did job {count}", flush=True)
print("worker stopped", flush=True)
