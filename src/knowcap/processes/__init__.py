"""Processes: jobs divided among them, which of them is the main one, and the signals that end them."""

from knowcap.processes.jobs import ProcessError, is_main_process, share_out


__all__ = ["ProcessError", "is_main_process", "share_out"]
