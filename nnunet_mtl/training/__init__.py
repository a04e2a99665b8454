"""How a run is trained: nnU-Net's trainer with several tasks, from partially labelled data.

`trainer` is the place to begin: it reads from top to bottom in the order in which things happen, and delegates to
objects that it builds once. What it overrides in nnU-Net is listed in `overrides`.

Glossary, each word with the module it lives in:
    experiment: Settings, task set and plans of a run, resolved once before nnU-Net's constructor (`experiment`).
    course: Which patches teach which task in which epoch; by default every patch teaches every task (`course`).
    terms: The named terms of the loss, one for all segmentation and one for all questions, or one for every task and
        question (`loss_terms`); the weighting sums them into one number (`loss_weighting`).
    taught, present: A sample teaches the regions that were annotated in its case; a term is present in a batch with at
        least one sample that teaches it. An un-annotated region is neither background nor zero: the loss skips it.
    monitor: The curves of a run, in nnU-Net's log and in figures (`monitor`), with the answers to the questions about
        whole images (`answer_monitor`).
    checkpoints: Files of weights that survive a killed process, and the choice of the best epoch (`checkpoints`).
"""
