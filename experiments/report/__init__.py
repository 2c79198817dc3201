"""The report: goals from the configs, values from stored results, status computed.

`entries` joins the two, `stored` reads experiments/results/, `measured` shows the rows that
`bench` and `tpu` stored, `render` writes tables to the terminal and to Markdown.
"""
