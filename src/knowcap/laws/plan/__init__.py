"""The planner: how large a model, how much data, how long a training, by laws that are fitted here or quoted.

`knowcap.laws.plan.questions.ask("size", bits=1e9)` answers a question with an `Answer`: numbers, how they come about,
which law says so, and where it does not reach. `knowcap plan` prints them; the page (`page.py`) shows the same ones.
Nothing here imports torch.
"""
