"""A model's name -> a local directory with the files that the engine needs.

In: a directory, or the id of a repository on ModelScope or Hugging Face. Out: a local directory; downloaded files are
checked. Read resolve.py first.
"""
