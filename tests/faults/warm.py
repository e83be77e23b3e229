"""Imported once by the server process, so that every child inherits lmms-eval's index of tasks."""

import gc

from hired_eval.lmms.tasks import task_manager

task_manager("docvqa_val")
gc.freeze()  # half a second spared each time that lmms-eval collects
