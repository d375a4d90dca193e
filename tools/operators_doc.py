"""(being written by H9, taken over from H3a: do not overwrite)"""
