"""The objects of nf_tables as the kernel sends and takes them over netlink.

``expressions`` knows the virtual machine, ``messages`` the objects around it,
``iptables`` how iptables-nft writes a rule, ``native`` how nft does.
"""
