"""What the browser does by itself: marks of stale results, and names that are read aloud."""

from __future__ import annotations

# What changes after a ready story was chosen, and before anybody touches the page again, is the story.
STALE = """() => {
  const page = document.body.classList;
  page.remove('asked');
  if (!page.contains('settling')) page.add('stale');
}"""
SETTLE = """() => {
  const page = document.body.classList;
  page.add('settling');
  page.remove('stale');
  for (const touch of ['pointerdown', 'keydown', 'drop', 'paste'])
    addEventListener(touch, () => page.remove('settling'), {once: true, capture: true});
}"""
# What is shown is stale until the server answers, which it may not; and for longer, if a control moves.
FRESH = """() => {
  const page = document.body.classList, line = document.getElementById('status');
  const said = () => line.querySelector('.vd-status')?.outerHTML, before = said();
  page.add('asked');
  new MutationObserver((_, it) => {
    if (said() === before || !document.getElementById('go').disabled) return;
    it.disconnect();
    if (page.contains('asked')) page.remove('asked', 'stale');
  }).observe(line, {childList: true, subtree: true, characterData: true, attributes: true});
}"""
# Gradio says "Thumbnail 1 of 8" over the visible caption; what is read aloud must be what is seen.
NAMED = """() => {
  const gallery = document.getElementById('gallery');
  const name = () => {
    for (const one of gallery.querySelectorAll('.thumbnail-item')) {
      const caption = one.querySelector('.caption-label')?.textContent.trim();
      if (caption && one.ariaLabel !== caption) one.ariaLabel = caption;
    }
  };
  new MutationObserver(name).observe(gallery, {childList: true, subtree: true});
  name();
}"""
