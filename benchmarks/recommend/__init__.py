"""How fast are recommendations over large catalogues?"""
