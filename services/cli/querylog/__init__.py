"""`subak log`: the query log. Date, message, status, sender."""
