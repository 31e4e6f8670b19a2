"""The work spread over the processes of a machine (torchrun) and over machines (Ray)."""
