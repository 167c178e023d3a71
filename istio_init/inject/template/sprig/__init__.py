"""The functions of sprig 3 that depend on nothing but their arguments.

The others (``refused``) exist, and say why they do nothing here: the same template
must give the same pod each time, from nothing but the pod and the settings.
"""
