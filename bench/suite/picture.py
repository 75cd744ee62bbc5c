def draw(found, about):
    return ""
