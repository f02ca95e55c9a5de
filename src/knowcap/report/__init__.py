"""Reports of finished runs: model cards, plots, tables for the terminal, and the HTML page of a sweep.

`stage.report` writes all files of a folder of runs; `table.text_table` lays out every table for the terminal. Texts
with more than a line are Jinja templates beside the code that fills them in.
"""
