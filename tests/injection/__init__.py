"""Cases of Istio's own programs, where the folder that holds them is there."""
