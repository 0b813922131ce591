"""Videos as frames with times, from files, streams, cameras and image sequences; encoded videos."""
