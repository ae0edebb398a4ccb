"""Generated logs with every kind of fault, prepared, and compared with a slow plain reader."""
