"""The survey's comparison, measured: robustness, overhead and generalisation, with intervals.

    sources -> tasks -> worlds -> plan -> measure -> rows (JSONL) -> statistics -> tables, figures, page

Pictures that share a list of labels are answered in batches, one adversarial picture is shown to all
defences, and every row names everything that could change it, so that a killed run goes on.
"""
