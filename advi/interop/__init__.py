"""Ways to and from other libraries; each is imported where it is used."""
