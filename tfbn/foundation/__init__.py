"""Common ground that knows no tensor: argument checks, files, text tables, provenance, signals."""
