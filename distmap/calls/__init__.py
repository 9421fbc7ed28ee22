"""One call of the user, from its arguments to its results.

Here live the options and inputs of a call, the handle of a job, futures, and the end of a pool. Ring 7: it may import
everything but `pool`. User code (iterables, reducers, callbacks) runs here, in the thread of the caller.
Begin with `job.py`.
"""
