"""The planner: how large a model, how much data, how long a training, by fitted or published laws.

`knowcap.laws.plan.questions.ask("size", bits=1e9)` answers a question with an `Answer`: numbers, how they come about,
which law they follow from, and where it does not apply. `knowcap plan` prints them, the page (`page.py`) shows them.
Nothing here imports torch.
"""
