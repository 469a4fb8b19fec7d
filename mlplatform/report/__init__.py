"""Pages that people read: HTML with plots. The only floor that knows matplotlib and jinja2."""
