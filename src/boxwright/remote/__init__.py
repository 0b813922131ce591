"""Object stores and files on the network: addresses such as `s3://bucket/folder` instead of local paths."""
