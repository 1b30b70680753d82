"""`subak doctor`: what stands in the way of synchronising an outlet's database, each with what to do."""
