"""The Space: `pip install gradio==6.31.0 -r requirements.txt && python app.py` in the folder that holds knowcap/."""

from knowcap.laws.plan.page import build


if __name__ == "__main__":
    build().launch()
