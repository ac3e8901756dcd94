"""One clip in, silhouettes, joint heatmaps and RGB crops out. Plain functions, no Ray.

    decode ─ detection ─ tracking          which boxes are one person: `PeopleFinder`
    decode ─ pose or segmentation ─ quality ─ alignment    what they look like: `PeopleDescriber`

    mask_folders, aligned_masks ─ beside, pickled          what others have cut out already

`extraction` joins the first two. A clip is read twice, once to find people and once to describe
them, so that only boxes and results, and no image, ever cross a process border.
"""
