"""What the modules LungTumorSeg and MouseThoraxSeg share in 3D Slicer: logic without Qt, and the panels over it.

Numbers come from the engine, the package `thoraxseg`; here they move between nodes, engine and widgets.
"""
