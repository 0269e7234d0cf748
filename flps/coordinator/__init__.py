"""The coordinator: who takes part, who waits for whom, what all of them measured together, and when the job is over.

Without a coordinator server 0 hosts the same service.

    service.py      which message means what
    summary.py      reports of workers, added up and told as events
    checkpoints.py  which checkpoint is being written, and when it is complete
"""
