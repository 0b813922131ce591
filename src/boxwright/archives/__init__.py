"""Archives and Parquet files read as folders, without unpacking them."""
