"""Walkers with known identity: a jointed body in 3-D, its gait, clothes, bags and cameras.

They stand in for benchmarks whose licences forbid shipping them: a demo, a test and a learning
curve need people whose identity is certain. Everything here is a pure function of seeds.

    traits.py       what differs between people and what differs between two walks of one person
    body.py         limb lengths, girths, head, hair
    gait.py         cadence, joint-angle curves, posture -> joint angles over time
    skeleton.py     body + angles -> joints in space
    outline.py      skeleton + body + clothes -> ellipsoids whose hulls are the visible solid
    camera.py       projection of ellipsoids and points, filling of their hulls
    walkers.py      one person, one walk, one camera -> masks and joints
    looks.py        skin, hair, a face, clothes: colours by place on the body
    shading.py      the same walk in colour and light, its mask unchanged
    backdrop.py     a house, a tree, the ground, and how they change
    street.py       several people before it who hide one another -> pictures and the truth
    truth.py        that truth as arrays in a file
    scenes.py       clips: crowds, and such as are to be refused
    casiab_tree.py  many of them on disk, named as CASIA-B names its silhouettes
"""
