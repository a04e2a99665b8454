"""TAL: one softmax, un-annotated labels merged in the loss (Fang, Yan, IEEE TMI 2020)."""
