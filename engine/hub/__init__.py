"""A model's name -> a local directory that holds what is needed of it.

In: a directory, or the id of a repository on ModelScope or Hugging Face. Out: a directory whose files were checked.
Read resolve.py first.
"""
