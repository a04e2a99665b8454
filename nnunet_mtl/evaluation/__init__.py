"""Evaluation: predictions and references in, tables, tests, figures and rankings out.

Six words mean the same thing in every module below:

- case: one image, its reference and its prediction, under one identifier.
- region: one structure of the data set, such as a liver or its tumour; a mask in every case. One task owns the region.
- metric: one number with a name and a unit, such as `dice` or `hd95_mm`; NaN or None where the number is not available.
- run: the predictions of one model for a folder of cases, and all metrics measured on them.
- question: one image-level classification task of the data set, such as malignancy, with two or more classes.
- answer: what a run says about one question in one case: a probability of every class, and the class or labels chosen.

`metrics` measures one region of one case, `answers` measures questions, `runs` gathers and compares runs, and `report`
draws figures and writes tables. `evaluate_run` and `evaluate_runs` put these together for `nnunet_mtl evaluate`.
"""
