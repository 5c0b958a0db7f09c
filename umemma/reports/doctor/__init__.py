"""The report of `umemma doctor`: what was found (`report`), what follows (`advice`), how it is
printed."""
