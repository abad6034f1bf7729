// Trees of formatted text (annotate/rendering.py) as nodes of the page.
// A tree is checked here once more: only these tags and attributes, by createElement and textContent and no other way.

const TREE_TAGS = new Set("p h3 h4 h5 h6 ul ol li blockquote pre code strong em s hr br span div table thead tbody tr th td".split(" "));
const TREE_ATTRIBUTES = { dir: /^(auto|ltr)$/, class: /^(plain|wide|language|address|unseen|center|right)$/, start: /^\d{1,9}$/ };
const MATH = "http://www.w3.org/1998/Math/MathML";
const MATH_TAGS = new Set("math mrow mi mn mo mtext mspace msub msup msubsup munder mover munderover mfrac msqrt mroot mtable mtr mtd mstyle menclose mpadded mmultiscripts mprescripts".split(" "));
const MATH_ATTRIBUTES = new Set("display displaystyle scriptlevel mathvariant stretchy fence form separator accent accentunder largeop symmetric movablelimits columnalign columnlines rowlines notation width lspace rspace minsize maxsize linethickness rowspacing columnspacing".split(" "));
const MATH_VALUE = /^[a-z0-9. -]{1,240}$/;
const TREE_DEPTH = 100;

function grow(tree, depth = 0) {
  const nodes = [];
  for (const each of tree) {
    if (typeof each === "string") { nodes.push(document.createTextNode(each)); continue; }
    const [tag, attributes, children] = each;
    const math = MATH_TAGS.has(tag);
    if (depth > TREE_DEPTH || !(math || TREE_TAGS.has(tag))) throw new TypeError(`A tree holds a ${tag} at depth ${depth}.`);
    const node = math ? document.createElementNS(MATH, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      const fits = math ? MATH_ATTRIBUTES.has(name) && MATH_VALUE.test(value) : TREE_ATTRIBUTES[name]?.test(value);
      if (fits) node.setAttribute(name, name === "class" ? `pawl-${value}` : value);
    }
    node.append(...grow(children, depth + 1));
    nodes.push(node);
  }
  return nodes;
}
