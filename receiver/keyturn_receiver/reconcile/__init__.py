"""Making one binding true: fetch, plan, apply, roll. The only way anything in the cluster gets changed."""
