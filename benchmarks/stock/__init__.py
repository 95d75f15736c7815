"""Stock rq: what the bars are counted from."""
