"""Images and batches of them, and the columns of a labeled data set that layouts (`formats`) fill."""
