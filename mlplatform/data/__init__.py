"""Every table on disk: data sets, captured rows, labels. The only floor that knows pyarrow."""
