"""The one loop of a pool: events to the scheduler, its commands to the engines.

Here live the loop in its own thread, the bytes of jobs, and where the output of tasks goes. Ring 6: it may import the
engines' ports, views, tasks, core and wire, and knows no user code. Begin with `driver.py`.
"""
