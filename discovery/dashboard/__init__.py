"""A local web page over run folders, and the same page as one file. It only ever reads."""
