"""The processes of an instance: ``fleet`` runs front and workers and tells its owner what they say, over ``channels``.

``journals`` says where each worker's journal is.
"""
