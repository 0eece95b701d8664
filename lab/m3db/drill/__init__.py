"""The drill of M3DB as a store: a real coordinator writes to nodes that are played, and everything that it acknowledged is looked for.

``plan``        situations: what happens to the nodes and to the coordinator, and when; open this first
``sender``      numbered values to port 7507, each with what is to be stored of it
``deployment``  KV, nodes and the coordinator as processes
``verdict``     what is missing, wrong, or refused and counted
``running``     a situation on a deployment

``scripts/m3db-drill`` runs it.
"""
