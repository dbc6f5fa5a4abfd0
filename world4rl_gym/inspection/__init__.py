"""Episodes to look at: real beside imagined, those judged wrongly first."""
