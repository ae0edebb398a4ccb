"""How many recommendations over HTTP does a service hold?"""
